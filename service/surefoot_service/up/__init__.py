"""`surefoot up`: the control plane, and a local Ray head if none is given."""
