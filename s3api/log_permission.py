"""Whether logs of one bucket may be delivered into another: that bucket's owner has to say so.

By the bucket's policy, for the principal that Amazon's documentation names, held against the key
that a log will have and the bucket it is of; or, where ACLs count, by giving the group LogDelivery
WRITE. A policy that denies decides.

Pure; callable from any thread.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from cache.records import Bucket
from s3api.acl import FULL_CONTROL, LOG_DELIVERY, WRITE
from s3api.controls import controls_of
from s3api.facts import ACCOUNT
from s3api.policy.evaluation import Decision, Question, evaluate

SERVICE = "logging.s3.amazonaws.com"


def may_deliver(source: str, target: Bucket, key: str, owner_id: str) -> bool:
    """Whether a log of the bucket `source` may be put into `target` under this key.

    owner_id: canonical ID of the owner of both, by which a policy may know the source's account,
    beside the one account that there is."""
    controls = controls_of(target)
    if controls.policy is not None:
        context = {
            "aws:sourcearn": [f"arn:aws:s3:::{source}"],
            "aws:sourceaccount": [ACCOUNT, owner_id],
            "aws:principaltype": ["Service"],
            "aws:principalisawsservice": ["true"],
            "aws:principalservicename": [SERVICE],
            "aws:currenttime": [f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"],
            "aws:epochtime": [str(int(time.time()))],
        }
        resource = f"arn:aws:s3:::{target.name}/{key}"
        question = Question("s3:PutObject", resource, frozenset({SERVICE}), context)
        decision = evaluate([controls.policy], question)
        if decision is not Decision.SILENT:
            return decision is Decision.ALLOWED
    return controls.acls_count and any(
        grant.group == LOG_DELIVERY and grant.permission in (WRITE, FULL_CONTROL)
        for grant in controls.acl.grants
    )
