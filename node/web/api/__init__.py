"""The JSON API `/api/v1`: one file a noun. With it come DICOMweb on results and the OpenAPI page."""
