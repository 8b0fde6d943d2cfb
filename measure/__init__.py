"""Instruments: metrics, timing, environment, rate curves, charts. No torch."""
