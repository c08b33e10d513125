"""The broker: Majordomo Protocol and the key/value Proxy, in one loop."""

from raspy.servers.broker.broker import Broker
from raspy.servers.broker.proxy import Proxy, Route
from raspy.servers.broker.settings import BrokerConfig
from raspy.servers.broker.state import Service, Worker

__all__ = ["Broker", "BrokerConfig", "Proxy", "Route", "Service", "Worker"]
