"An EMR job reaches the service as it was written"

import sys
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.command import cli
from dark_halo_scope.run.emr import ClusterRecipe, emr_job, job_size, recipe_for_cluster, submit


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch):
    "Amazon's services as moto plays them, without an account"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield


def test_submitted_job(amazon: None) -> None:
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


def test_the_command_says_where_and_at_what_price(amazon: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    "Region, spot market, subnet and tags reach the service, and a recipe of one's own lies beside the run"
    (tmp_path / "mine.yaml").write_text("name: mine\nrelease: s3://bucket/dr10\n")
    s3 = boto3.client("s3", region_name="eu-west-1")
    s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    line = f"dhs emr phase4c_inject --recipe {tmp_path}/mine.yaml --stamps 10600000 --bricks 76000 --hours 1 --out s3://bucket/run"
    line += " --region eu-west-1 --instance m7i.8xlarge --cores 32 --spot --subnet subnet-0a1b2c3d --tag project=lenses"
    monkeypatch.setattr(sys, "argv", line.split())
    with pytest.raises(SystemExit) as done:
        cli.main()
    said = capsys.readouterr()
    assert not done.value.code and "dollars on demand" in said.err
    client, name = boto3.client("emr", region_name="eu-west-1"), said.out.split()[-1]
    groups = {g["InstanceGroupType"]: g for g in client.list_instance_groups(ClusterId=name)["InstanceGroups"]}
    assert {kind: g["Market"] for kind, g in groups.items()} == {"MASTER": "ON_DEMAND", "CORE": "ON_DEMAND", "TASK": "SPOT"}
    nodes = int(job_size(10_600_000, 76_000, ClusterRecipe(hours=1.0, cores=32))["nodes"])
    assert [groups[kind]["RequestedInstanceCount"] for kind in ("MASTER", "CORE", "TASK")] == [1, 1, nodes - 1]
    assert {g["InstanceType"] for g in groups.values()} == {"m7i.8xlarge"}
    there = client.describe_cluster(ClusterId=name)["Cluster"]
    assert there["Tags"] == [{"Key": "project", "Value": "lenses"}] and there["Ec2InstanceAttributes"]["Ec2SubnetId"] == "subnet-0a1b2c3d"
    words = client.list_steps(ClusterId=name)["Steps"][0]["Config"]["Args"]
    assert words[words.index("--recipe") + 1] == "s3://bucket/run/recipe.yaml"
    assert s3.get_object(Bucket="bucket", Key="run/recipe.yaml")["Body"].read() == (tmp_path / "mine.yaml").read_bytes()


def test_a_packaged_recipe_is_found_by_its_name() -> None:
    assert recipe_for_cluster("gen3", "s3://bucket/gen3") == (b"", "gen3")


def test_more_time_needs_fewer_nodes() -> None:
    slow, fast = (job_size(10_600_000, 76_000, ClusterRecipe(hours=h)) for h in (20.0, 1.0))
    assert slow["nodes"] < fast["nodes"] and slow["node_hours"] == pytest.approx(fast["node_hours"]) and fast["hours"] <= 1.0


def test_dollars_are_machines_times_hours() -> None:
    "Ten nodes for one hour and one machine that leads them: eleven prices and a quarter of each; on the spot market nine of them at half"
    size = job_size(0, 1, ClusterRecipe(hours=1.0, cores=1, read_s=36_000.0, efficiency=1.0, usd_per_hour=2.0))
    assert (size["nodes"], size["hours"]) == (10, 1.0)
    assert (size["usd_on_demand"], size["usd_spot"]) == (11 * 2 * 1.25, 2 * 2 + 9 * 2 * 0.5 + 11 * 2 * 0.25)


@pytest.mark.parametrize(
    "asked, says",
    [({"efficiency": 1.5}, "efficiency"), ({"subnet": "0a1b2c3d"}, "subnet-0a1b2c3d"), ({"spot_share": 2.0}, "spot_share"), ({"usd_per_hour": -1.0}, "usd_per_hour")],
)  # fmt: skip
def test_what_is_refused(asked: dict, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        ClusterRecipe(**asked)


def test_only_a_run_on_s3_can_be_sent() -> None:
    with pytest.raises(BadInput, match="not on S3"):
        emr_job("phase4c_inject", "gen1", "runs/gen1", 1, 1)


def test_a_tag_without_a_value_is_refused(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", "dhs emr phase4c_inject --stamps 1 --bricks 1 --out s3://bucket/x --tag lenses --dry-run".split())
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 2 and "KEY=VALUE" in capsys.readouterr().err
