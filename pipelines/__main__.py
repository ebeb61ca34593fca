"""`python -m llavaflow.pipelines` is the `pipeline` command."""

import sys

from llavaflow.pipelines._cli.main import main

sys.exit(main())
