"""From result to people: meshes, pictures, videos, reports."""
