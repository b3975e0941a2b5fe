"""What every other package stands on: errors, files, geometry, processes. Imports no torch."""
