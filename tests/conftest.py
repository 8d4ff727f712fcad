"""What all tests share: hypothesis runs that repeat."""

from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "repeatable",
    deadline=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),  # explaining takes minutes
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("repeatable")
