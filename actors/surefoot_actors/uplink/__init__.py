"""The line to the control plane."""
