"""What becomes of each hook of a LightningModule, and of each option of Lightning's Trainer."""

from __future__ import annotations

from surefoot.integrations.support import Support

__all__ = ["HOOKS", "OPTIONS", "TRAINER"]

_NOT_FIT = "is for testing and predicting, which are no part of training"
_OWN = "is the module's to call"
_JOB = "the job says which trainers there are, and on what"
_RECORD = "every step's values are in the job's ledger"

HOOKS = Support(
    honoured=frozenset(
        """
        forward training_step validation_step configure_optimizers configure_model setup teardown lr_scheduler_step
        on_fit_start on_fit_end on_train_start on_train_end on_train_epoch_start on_train_epoch_end
        on_train_batch_start on_train_batch_end on_before_backward backward on_after_backward on_before_optimizer_step
        on_validation_start on_validation_end on_validation_epoch_start on_validation_epoch_end
        on_validation_batch_start on_validation_batch_end
        on_before_batch_transfer transfer_batch_to_device on_after_batch_transfer
        """.split()  # noqa: SIM905
    ),
    harmless={
        **dict.fromkeys(
            """
            test_step predict_step on_test_start on_test_end on_predict_start on_predict_end on_test_batch_start on_test_batch_end
            on_predict_batch_start on_predict_batch_end on_test_model_eval on_test_model_train on_predict_model_eval
            on_test_epoch_start on_test_epoch_end on_predict_epoch_start on_predict_epoch_end test_dataloader predict_dataloader
            """.split(),  # noqa: SIM905
            _NOT_FIT,
        ),
        **dict.fromkeys(
            """
            freeze unfreeze print to_onnx to_torchscript to_tensorrt load_from_checkpoint save_hyperparameters example_input_array
            state_dict load_state_dict extra_repr
            """.split(),  # noqa: SIM905
            _OWN,
        ),
    },
    advice={
        "prepare_data": "call it by run.once(...), before",
        "train_dataloader": "give fit() the dataset",
        "val_dataloader": "give fit() the dataset",
        "optimizer_step": "write the loop: it is `for step in run.steps(...)`",
        "configure_gradient_clipping": "give fit() gradient_clip_val, or clip in on_before_optimizer_step",
        "optimizer_zero_grad": "gradients are cleared and merged by Surefoot",
        "on_before_zero_grad": "gradients are cleared and merged by Surefoot",
        "configure_callbacks": "callbacks are not called: write hooks of the module",
        "on_save_checkpoint": "what the job's checkpoints are to hold, put into buffers",
        "on_load_checkpoint": "what the job's checkpoints are to hold, put into buffers",
        "configure_sharded_model": "use configure_model",
    },
)

OPTIONS = Support(
    honoured=frozenset(
        """
        max_epochs max_steps gradient_clip_val gradient_clip_algorithm precision accumulate_grad_batches check_val_every_n_epoch
        val_check_interval
        """.split()  # noqa: SIM905
    ),
    harmless={
        **dict.fromkeys(["accelerator", "devices", "num_nodes", "use_distributed_sampler"], _JOB),
        **dict.fromkeys(
            ["log_every_n_steps", "enable_progress_bar", "enable_model_summary", "enable_autolog_hparams"], _RECORD
        ),
        "num_sanity_val_steps": "nothing comes of those steps",
        "deterministic": "it is always so",
        "inference_mode": "evaluation makes no gradients either way",
        "enable_checkpointing": "the job's checkpoints are what is durable",
        "default_root_dir": "nothing is written",
    },
    advice={
        "callbacks": "leave them out: `surefoot submit --best +NAME` keeps the best checkpoint, in place of ModelCheckpoint, and what "
        "self.log is given is watched; other callbacks are hooks of the module, and early stopping is for a loop of your own",
        "logger": "leave it out: what self.log is given is in the job's ledger, and `surefoot track JOB --to tensorboard:FOLDER` brings it "
        "to a tracker",
        "strategy": "Surefoot trains data-parallel",
        "min_epochs": "give max_epochs",
        "min_steps": "give max_steps",
        "benchmark": "it is always off, as it decides bits",
    },
)

#: of `self.trainer`
TRAINER = (
    "current_epoch",
    "estimated_stepping_batches",
    "global_rank",
    "global_step",
    "is_global_zero",
    "local_rank",
    "lr_scheduler_configs",
    "max_epochs",
    "max_steps",
    "num_training_batches",
    "optimizers",
    "sanity_checking",
    "training",
    "validating",
    "world_size",
)
