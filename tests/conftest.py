"""What all tests share: no test of hypothesis fails because the machine is slow."""

from hypothesis import HealthCheck, settings

settings.register_profile("udpring", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("udpring")
