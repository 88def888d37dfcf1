"""The ground floor: errors, strict configs, devices, environment, checkpoint folders, picture files."""
