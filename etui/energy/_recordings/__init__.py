"""The record of one channel, and its energy over an interval."""
