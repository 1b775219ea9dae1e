"""These tests need a GPU; `make gpu-test` runs them and fails where there is none."""

import torch

collect_ignore_glob = [] if torch.cuda.is_available() else ["test_*.py"]
