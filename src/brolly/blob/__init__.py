"""The object store: one protocol (``store``), two stores (``folder``, ``s3``). The only home of boto3."""
