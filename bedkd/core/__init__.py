"""What every room uses: errors, configuration, the hub, devices, files."""
