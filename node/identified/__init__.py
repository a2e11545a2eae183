"""The rooms in which a person has a name. Only assembly, scp and web.reveal may come in."""
