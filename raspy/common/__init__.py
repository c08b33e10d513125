"""What every process of RasPy stands on: the bus, the event loop, configuration, devices."""
