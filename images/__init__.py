"""The shared model image: building, pushing and running it."""
