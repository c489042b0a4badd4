"""Settings every test runs with."""

from hypothesis import settings

# No deadline per example: on shared cores a pause of 200 ms says nothing about the code.
settings.register_profile("shared-cores", deadline=None)
settings.load_profile("shared-cores")
