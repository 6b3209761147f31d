"""Fits what is known of each arm's accuracy from graded answers (``etui policy fit``)."""
