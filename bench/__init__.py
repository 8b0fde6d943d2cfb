"""Metrics, latency and rate-distortion measurements, and their reports."""
