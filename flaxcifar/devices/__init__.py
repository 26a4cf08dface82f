"""Devices, processes and host memory."""
