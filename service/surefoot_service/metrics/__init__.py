"""What Prometheus is told of the control plane and of each job."""
