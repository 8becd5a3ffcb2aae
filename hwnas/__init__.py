"""hwnas: which network should we ship on this chip?"""
