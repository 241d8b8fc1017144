"""Programs whose mend is not there yet. Empty in the end: one that is well and stands here fails its test."""

from __future__ import annotations

__all__ = ["AWAITED", "RACY"]

AWAITED = frozenset(
    """
    set_epoch_workers set_epoch_of_a_subset_workers curriculum_from_merged_values
    curriculum_from_merged_values_workers growing_data growing_data_workers
    collate_changed_by_the_loop_workers data_set_that_holds_the_model_workers
    expanded_buffer stochastic_depth jit_script jit_script_part convolutions_channels_last lazy_linear
    lazy_with_norm lazy_convolution extra_state extra_state_of_a_part own_module_state_dict quantization_aware
    inference_mode_before_the_first_step
    autocast_around_the_loop autocast_by_a_function
    sgd_nesterov_channels_last rmsprop_centered_channels_last adam_amsgrad_channels_last
    adamw_fused_channels_last adam_fused_amsgrad_channels_last sgd_fused_channels_last
    adamw_foreach_channels_last nadam_decoupled_channels_last adamw_tensor_lr_channels_last
    adamw_fused_tensor_lr_channels_last adam_capturable_like_channels_last plain_adadelta_channels_last
    plain_adam_channels_last plain_adamw_channels_last plain_adamax_channels_last plain_asgd_channels_last
    plain_nadam_channels_last plain_radam_channels_last plain_rmsprop_channels_last plain_rprop_channels_last
    transposed_parameters channels_last_3d channels_last_after_the_optimizer format_changed_while_training
    lamb_channels_last lookahead_by_inheritance optimizer_with_its_own_state_dict one_tensor_in_many_places
    lbfgs sparse_gradients
    untracked_schedule untracked_plateau untracked_average untracked_optimizer untracked_scaler
    scheduler_in_the_inner_loop average_in_the_inner_loop parameters_changed_in_the_inner_loop
    learning_rate_changed_in_the_inner_loop zero_grad_before_the_step a_step_every_second_step
    two_rounds_one_step threads_changed determinism_switched_off merged_value_that_nobody_logged
    schedule_SequentialLR_tensor plateau_and_tensor_learning_rate plain_values
    value_that_is_a_tensor_here_and_a_number_there
    frozen_without_zero_grad frozen_and_unfrozen frozen_after_the_step frozen_between_loop_and_step
    frozen_with_zeroed_gradient group_added groups_added_one_by_one pruned_while_training pruned_further
    head_replaced layer_appended buffer_registered_while_training parameter_data_replaced
    attribute_changed_once layers_swapped_for_channels_last
    """.split()
)

# These part now and then.
RACY = frozenset({"open_file_workers"})
