"""PLACEHOLDER"""
from __future__ import annotations


class Minimal: pass
