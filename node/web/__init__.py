"""HTTP: health, the Orthanc hook, STOW-RS, results."""
