"""Traces of jobs, from the request that submits them to their first step, as OpenTelemetry has them."""
