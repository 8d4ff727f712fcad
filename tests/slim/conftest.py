"""What all tests of the slim core share: one thread, and hypothesis runs that repeat."""

import torch
from hypothesis import HealthCheck, Phase, settings

torch.set_num_threads(1)
settings.register_profile(
    "slim",
    deadline=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),  # explaining takes minutes
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("slim")
