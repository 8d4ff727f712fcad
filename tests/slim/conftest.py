"""What all tests of the slim core share: one thread."""

import torch

torch.set_num_threads(1)
