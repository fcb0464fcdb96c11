"""What all tests share."""

from __future__ import annotations

import torch

# Tests' tensors are tiny: on a busy machine a second thread that waits for its core costs 15 times the work.
torch.set_num_threads(1)
