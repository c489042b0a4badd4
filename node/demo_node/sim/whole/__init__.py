"""Whole nodes (driver, stores, sync) on an asyncio loop whose time jumps."""
