"An EMR job reaches the service as it was written"

import boto3
import pytest
from moto import mock_aws

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.run.emr import ClusterRecipe, emr_job, job_size, submit


@mock_aws
def test_submitted_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    cluster = ClusterRecipe(hours=1.0)
    job = emr_job("phase4c_inject", "gen1", "s3://bucket/gen1", 10_600_000, 76_000, cluster=cluster)
    name = submit(job)
    client = boto3.client("emr", region_name="us-east-1")
    there = client.describe_cluster(ClusterId=name)["Cluster"]
    assert there["ReleaseLabel"] == cluster.release and there["AutoTerminate"]
    groups = {g["InstanceGroupType"]: g["RequestedInstanceCount"] for g in client.list_instance_groups(ClusterId=name)["InstanceGroups"]}
    assert groups == {"MASTER": 1, "CORE": int(job_size(10_600_000, 76_000, cluster)["nodes"])}
    words = client.list_steps(ClusterId=name)["Steps"][0]["Config"]["Args"]
    assert words == job["Steps"][0]["HadoopJarStep"]["Args"]
    assert words[words.index("--archives") + 1].endswith("environment.tar.gz#environment") and words[-2:] == ["--engine", "spark"]


def test_more_time_needs_fewer_nodes() -> None:
    slow, fast = (job_size(10_600_000, 76_000, ClusterRecipe(hours=h)) for h in (20.0, 1.0))
    assert slow["nodes"] < fast["nodes"] and slow["node_hours"] == pytest.approx(fast["node_hours"]) and fast["hours"] <= 1.0


def test_what_is_refused() -> None:
    with pytest.raises(BadInput, match="not on S3"):
        emr_job("phase4c_inject", "gen1", "runs/gen1", 1, 1)
    with pytest.raises(BadInput, match="efficiency"):
        ClusterRecipe(efficiency=1.5)
