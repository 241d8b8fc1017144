"""The control plane: FastAPI app, store, scheduler, Ray Jobs submission."""
