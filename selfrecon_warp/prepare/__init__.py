"""Video, pictures and estimators' files become captures."""
