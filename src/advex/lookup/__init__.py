"""From what a user names to the thing: models, data sets, devices and folders."""
