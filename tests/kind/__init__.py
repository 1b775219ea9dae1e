"""The pipeline on a real, small Kubernetes cluster."""
