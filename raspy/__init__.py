"""RasPy: watches and runs an aquarium, a terrarium, a greenhouse or a boiler room."""

__version__ = "0.1.0"
