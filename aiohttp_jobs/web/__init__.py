"""The aiohttp layer: it finds the scheduler of a request, and delegates."""
