"""The engine: sub-tasks, leaves, the merge tree, the exchange, tracked state, and the Run and Step that users see."""
