"""Hexagon: graphs of fixed shapes -> context binaries, by the QNN execution provider; on x86 a simulator runs them."""
