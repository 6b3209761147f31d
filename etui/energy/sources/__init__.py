"""Where power readings come from: one module a driver or sysfs tree."""
