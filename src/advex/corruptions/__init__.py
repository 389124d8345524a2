"""Changes of pictures as the world makes them: noise, blur, weather, compression. Each is registered by name."""

from advex.corruptions.corruption import SEVERITIES as SEVERITIES
from advex.corruptions.corruption import Corruption as Corruption
from advex.corruptions.corruption import corruption as corruption

__all__ = ["SEVERITIES", "Corruption", "corruption"]
