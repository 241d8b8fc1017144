"""What becomes of each field of transformers.TrainingArguments."""

from __future__ import annotations

from surefoot.integrations.support import Support

__all__ = ["ARGUMENTS", "OPTIMIZERS", "OVERRIDES", "QUIET_CALLBACKS", "SCHEDULES"]

_RECORD = "every step's values are in the job's ledger, which is where they are watched and read"
_CHECKPOINTS = "the job's checkpoints are what is durable; `surefoot submit` says how often"
_LOADING = "batches are loaded by the job's data workers, with the same bits"
_WORDS = "is about words on a terminal or a name for people"

ARGUMENTS = Support(
    honoured=frozenset(
        [
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "num_train_epochs",
            "max_steps",
            "learning_rate",
            "lr_scheduler_type",
            "lr_scheduler_kwargs",
            "warmup_steps",
            "optim",
            "optim_args",
            "weight_decay",
            "adam_beta1",
            "adam_beta2",
            "adam_epsilon",
            "max_grad_norm",
            "label_smoothing_factor",
            "bf16",
            "activation_checkpointing",
            "activation_checkpointing_kwargs",
            "gradient_checkpointing",
            "gradient_checkpointing_kwargs",
            "use_cache",
            "eval_strategy",
            "eval_steps",
            "eval_delay",
            "prediction_loss_only",
            "remove_unused_columns",
            "label_names",
            "train_sampling_strategy",
            "average_tokens_across_devices",
        ]
    ),
    harmless={
        "output_dir": "the Trainer makes the folder and nothing is written there: code after the loop saves, on one trainer",
        "per_device_eval_batch_size": "evaluation goes in batches of a sub-task's size, and means are weighted by samples",
        "tf32": "the arguments set it themselves, on every trainer alike, before the loop",
        "seed": "is for what is drawn before the loop; the order of samples and dropout follow the job's",
        "full_determinism": "it is always so",
        "use_cpu": "the job says which device a trainer has",
        **dict.fromkeys(["logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node"], _RECORD),
        "logging_nan_inf_filter": "values are told as they are",
        **dict.fromkeys(["log_level", "log_level_replica", "disable_tqdm", "run_name", "project"], _WORDS),
        **dict.fromkeys(
            ["save_strategy", "save_steps", "save_on_each_node", "save_total_limit", "save_only_model"], _CHECKPOINTS
        ),
        "metric_for_best_model": "is of use with load_best_model_at_end and schedules by a metric, which are refused",
        "greater_is_better": "is of use with load_best_model_at_end and schedules by a metric, which are refused",
        "do_train": "is for scripts to read",
        "do_eval": "is for scripts to read",
        "do_predict": "is for scripts to read",
        "eval_accumulation_steps": "rows that are gathered lie in host memory at once",
        "length_column_name": "is of use when samples are grouped by length alone, which is refused",
        **dict.fromkeys(
            ["hub_strategy", "hub_private_repo", "hub_model_id", "hub_token"], "is of use with push_to_hub alone"
        ),
        **dict.fromkeys(["dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_in_order"], _LOADING),
        "ddp_timeout": "there is no DDP",
        "local_rank": "is set by launchers; Surefoot's trainers have no ranks that code sees",
    },
    advice={
        "fp16": "use bf16=True",
        "fp16_full_eval": "use bf16=True",
        "bf16_full_eval": "use bf16=True, which evaluates in the same mode",
        "torch_compile": "compile the model before the Trainer gets it",
        "load_best_model_at_end": "leave it out: `surefoot submit --best +eval_accuracy`, or whatever is logged, keeps the checkpoint "
        "of the best step",
        "report_to": 'give report_to="none": the values are in the job\'s ledger, and `surefoot track JOB --to wandb:PROJECT` brings '
        "them to a tracker",
        "push_to_hub": "push the model after the loop, in the train function: that code runs on one trainer",
        "resume_from_checkpoint": "jobs go on from their own checkpoints: `surefoot pause` and `surefoot resume`",
        "data_seed": "the order of samples is the job's: `surefoot submit --seed`",
        "dataloader_num_workers": "say it of the job: `surefoot submit --data-workers`",
        "dataloader_prefetch_factor": "say it of the job: `surefoot submit --data-workers`",
        "dataloader_drop_last": "batches keep their size: an epoch's last one is filled up from the next",
        "auto_find_batch_size": "a job's batch never changes",
        "eval_on_start": "evaluate in the first steps by eval_steps",
        "deepspeed": "Surefoot trains data-parallel",
        "fsdp": "Surefoot trains data-parallel",
    },
)

#: optimizers whose steps are the same bits from the same state: those of torch, and Adafactor
OPTIMIZERS = frozenset({"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"})

#: schedules that are a function of the step; the others ask for a metric
SCHEDULES = frozenset(
    [
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
        "cosine_with_min_lr",
        "cosine_warmup_with_min_lr",
        "warmup_stable_decay",
    ]
)

#: methods of Trainer that a subclass may have of its own: they are called as Trainer calls them
OVERRIDES = frozenset(
    [
        "__init__",
        "compute_loss",
        "create_optimizer",
        "create_scheduler",
        "create_optimizer_and_scheduler",
        "get_decay_parameter_names",
        "get_optimizer_cls_and_kwargs",
        "_get_num_items_in_batch",
    ]
)

#: callbacks that Trainer brings itself
QUIET_CALLBACKS = frozenset({"DefaultFlowCallback", "ProgressCallback", "PrinterCallback", "NotebookProgressCallback"})
