"""Motions: files and procedures that move a skeleton of SMPL's 24 joints."""
