"""`python -m hwnas`"""

import sys

from hwnas.search.cli import main

sys.exit(main())
