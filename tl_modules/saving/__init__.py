"""The one file format of everything that is saved: safetensors with a JSON header and a checksum.

Files are checked before their content is used, and nothing is unpickled.
"""
