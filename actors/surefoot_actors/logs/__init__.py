"""What processes print: taken at their file descriptors, folded into lines, and shipped to the control plane."""
