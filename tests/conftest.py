"""For all tests: hypothesis has no deadline, since the machine may be slow, and SIGINT ends programs."""

import signal

from hypothesis import HealthCheck, settings

settings.register_profile("udpring", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", settings.get_profile("udpring"), max_examples=25)  # scripts/test --fast
settings.load_profile("udpring")

# A shell starts background jobs with SIGINT ignored, and each program of a test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
