"""A stand-in for Terraform's AWS provider: it has the resources, attributes and data source that infra/terraform and its
examples use, as in version 6.25.0 of the provider, and makes the same calls, to the AWS of the environment."""

from tf.iface import DataSource, Provider, Resource
from tf.runner import run_provider
from tf.schema import Attribute, Schema
from tf.types import Bool, Map, Number, Set, String, Unknown


class Provided(Resource):
    """What the resources share: a schema from three tables, and a new resource where such an attribute changes."""

    required: dict = {}
    optional: dict = {}
    computed: dict = {}
    replaces: set = set()

    def __init__(self, provider):
        pass

    @classmethod
    def get_schema(cls):
        regional = {} if cls.get_name() == "route53_health_check" else {"region": String()}
        both = {"id": String(), **regional, **cls.computed}
        attributes = [Attribute(name, kind, required=True) for name, kind in cls.required.items()]
        attributes += [Attribute(name, kind, optional=True) for name, kind in cls.optional.items()]
        attributes += [
            Attribute(name, kind, optional=name != "outputs", computed=True) for name, kind in both.items()
        ]
        for attribute in attributes:
            attribute.requires_replace = attribute.name in cls.replaces
        return Schema(version=0, attributes=attributes)

    def read(self, ctx, current):
        return current

    def upgrade(self, ctx, version, old):
        return old


def client(service, state):
    import boto3  # takes a third of a second, and what is planned needs no AWS

    region = state.get("region")
    return boto3.client(service, region_name=None if region in (None, Unknown) else region)


def known(state, **values):
    """The state after a call: what AWS chose, and null for what it did not say."""
    state = {**state, **values}
    return {name: None if value is Unknown else value for name, value in state.items()}


def pairs(values):
    return [{"Key": key, "Value": value} for key, value in sorted((values or {}).items())]


class Stack(Provided):
    required = {"name": String()}
    optional = {"template_url": String(), "capabilities": Set(String()), "tags": Map(String())}
    computed = {"parameters": Map(String()), "outputs": Map(String())}
    replaces = {"name", "region"}

    @classmethod
    def get_name(cls):
        return "cloudformation_stack"

    @staticmethod
    def arguments(state):
        return {
            "StackName": state["name"],
            "TemplateURL": state["template_url"],
            "Capabilities": sorted(state["capabilities"]),
            "Parameters": [
                {"ParameterKey": key, "ParameterValue": value} for key, value in sorted(state["parameters"].items())
            ],
            "Tags": pairs(state["tags"]),
        }

    def create(self, ctx, planned):
        cloudformation = client("cloudformation", planned)
        cloudformation.create_stack(**self.arguments(planned))
        cloudformation.get_waiter("stack_create_complete").wait(StackName=planned["name"])
        return self.read(ctx, planned)

    def update(self, ctx, current, planned):
        cloudformation = client("cloudformation", planned)
        cloudformation.update_stack(**self.arguments(planned))
        cloudformation.get_waiter("stack_update_complete").wait(StackName=planned["name"])
        return self.read(ctx, planned)

    def plan(self, ctx, current, planned):
        if ctx.changed_fields - {"outputs"}:
            planned = {**planned, "outputs": Unknown}
        return planned

    def read(self, ctx, current):
        [stack] = client("cloudformation", current).describe_stacks(StackName=current["name"])["Stacks"]
        # As the provider does, those alone that were given: the others have the template's defaults.
        now = {each["ParameterKey"]: each["ParameterValue"] for each in stack["Parameters"]}
        given = {name: now[name] for name in current["parameters"] if name in now}
        outputs = {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}
        return known(current, id=stack["StackId"], parameters=given, outputs=outputs)

    def delete(self, ctx, current):
        client("cloudformation", current).delete_stack(StackName=current["name"])


class Object(Provided):
    required = {"bucket": String(), "key": String()}
    optional = {"source": String()}
    replaces = {"bucket", "key", "region"}

    @classmethod
    def get_name(cls):
        return "s3_object"

    def create(self, ctx, planned):
        with open(planned["source"], "rb") as file:
            client("s3", planned).put_object(Bucket=planned["bucket"], Key=planned["key"], Body=file)
        return known(planned, id=f"{planned['bucket']}/{planned['key']}")

    def update(self, ctx, current, planned):
        return self.create(ctx, planned)

    def delete(self, ctx, current):
        client("s3", current).delete_object(Bucket=current["bucket"], Key=current["key"])


class Alarm(Provided):
    required = {"alarm_name": String(), "comparison_operator": String(), "evaluation_periods": Number()}
    optional = {
        "actions_enabled": Bool(),
        "alarm_actions": Set(String()),
        "alarm_description": String(),
        "dimensions": Map(String()),
        "metric_name": String(),
        "namespace": String(),
        "period": Number(),
        "statistic": String(),
        "tags": Map(String()),
        "threshold": Number(),
        "treat_missing_data": String(),
    }
    replaces = {"alarm_name", "region"}

    @classmethod
    def get_name(cls):
        return "cloudwatch_metric_alarm"

    def create(self, ctx, planned):
        given = {
            "".join(word.capitalize() for word in name.split("_")): value
            for name, value in planned.items()
            if value is not None and name in {*self.required, *self.optional}
        }
        given["Dimensions"] = [{"Name": name, "Value": value} for name, value in given["Dimensions"].items()]
        given["AlarmActions"] = sorted(given["AlarmActions"])
        given["Tags"] = pairs(given.get("Tags"))
        client("cloudwatch", planned).put_metric_alarm(**given)
        return known(planned, id=planned["alarm_name"])

    def update(self, ctx, current, planned):
        return self.create(ctx, planned)

    def delete(self, ctx, current):
        client("cloudwatch", current).delete_alarms(AlarmNames=[current["alarm_name"]])


class HealthCheck(Provided):
    required = {"type": String()}
    optional = {
        "failure_threshold": Number(),
        "fqdn": String(),
        "port": Number(),
        "request_interval": Number(),
        "resource_path": String(),
        "tags": Map(String()),
    }
    computed = {"tags_all": Map(String())}
    replaces = {"type", "request_interval"}

    @classmethod
    def get_name(cls):
        return "route53_health_check"

    def create(self, ctx, planned):
        route53 = client("route53", planned)
        config = {
            "Type": planned["type"],
            "FullyQualifiedDomainName": planned["fqdn"],
            "Port": planned["port"],
            "ResourcePath": planned["resource_path"],
            "FailureThreshold": planned["failure_threshold"],
            "RequestInterval": planned["request_interval"],
        }
        made = route53.create_health_check(CallerReference=planned["fqdn"], HealthCheckConfig=config)
        id = made["HealthCheck"]["Id"]
        if planned["tags"]:
            route53.change_tags_for_resource(ResourceType="healthcheck", ResourceId=id, AddTags=pairs(planned["tags"]))
        return self.read(ctx, {**planned, "id": id})

    def read(self, ctx, current):
        route53 = client("route53", current)
        config = route53.get_health_check(HealthCheckId=current["id"])["HealthCheck"]["HealthCheckConfig"]
        found = route53.list_tags_for_resource(ResourceType="healthcheck", ResourceId=current["id"])
        tags = {each["Key"]: each["Value"] for each in found["ResourceTagSet"]["Tags"]}
        return known(current, resource_path=config["ResourcePath"], tags=tags or None, tags_all=tags)

    def plan(self, ctx, current, planned):
        # The provider plans them from `tags`.
        return {**planned, "tags_all": planned["tags"] or {}}

    def update(self, ctx, current, planned):
        route53 = client("route53", planned)
        route53.update_health_check(HealthCheckId=planned["id"], ResourcePath=planned["resource_path"])
        gone = [key for key in current["tags"] or {} if key not in (planned["tags"] or {})]
        changes = {"AddTags": pairs(planned["tags"])} if planned["tags"] else {}
        if gone:
            changes["RemoveTagKeys"] = gone
        if changes:
            route53.change_tags_for_resource(ResourceType="healthcheck", ResourceId=planned["id"], **changes)
        return self.read(ctx, planned)

    def delete(self, ctx, current):
        client("route53", current).delete_health_check(HealthCheckId=current["id"])


class Bucket(Provided):
    optional = {"bucket": String()}
    replaces = {"bucket", "region"}

    @classmethod
    def get_name(cls):
        return "s3_bucket"

    def create(self, ctx, planned):
        client("s3", planned).create_bucket(Bucket=planned["bucket"])
        return known(planned, id=planned["bucket"])

    def update(self, ctx, current, planned):
        return planned

    def delete(self, ctx, current):
        client("s3", current).delete_bucket(Bucket=current["bucket"])


class PublicAccessBlock(Provided):
    required = {"bucket": String()}
    optional = {
        "block_public_acls": Bool(),
        "block_public_policy": Bool(),
        "ignore_public_acls": Bool(),
        "restrict_public_buckets": Bool(),
    }
    replaces = {"bucket", "region"}

    @classmethod
    def get_name(cls):
        return "s3_bucket_public_access_block"

    def create(self, ctx, planned):
        block = {
            "BlockPublicAcls": planned["block_public_acls"],
            "BlockPublicPolicy": planned["block_public_policy"],
            "IgnorePublicAcls": planned["ignore_public_acls"],
            "RestrictPublicBuckets": planned["restrict_public_buckets"],
        }
        client("s3", planned).put_public_access_block(
            Bucket=planned["bucket"], PublicAccessBlockConfiguration=block
        )
        return known(planned, id=planned["bucket"])

    def update(self, ctx, current, planned):
        return self.create(ctx, planned)

    def delete(self, ctx, current):
        client("s3", current).delete_public_access_block(Bucket=current["bucket"])


class Partition(DataSource):
    def __init__(self, provider):
        pass

    @classmethod
    def get_name(cls):
        return "partition"

    @classmethod
    def get_schema(cls):
        names = ["id", "partition", "dns_suffix", "reverse_dns_prefix"]
        return Schema(version=0, attributes=[Attribute(name, String(), computed=True) for name in names])

    def read(self, ctx, config):
        # boto3 finds an emulator by AWS_ENDPOINT_URL; the suffix is a part of the template's URL.
        return {"id": "aws", "partition": "aws", "dns_suffix": "amazonaws.com", "reverse_dns_prefix": "com.amazonaws"}


class Aws(Provider):
    def get_model_prefix(self):
        return "aws_"

    def full_name(self):
        return "registry.terraform.io/hashicorp/aws"

    def get_provider_schema(self, diags):
        return Schema(version=0, attributes=[Attribute("region", String(), optional=True)])

    def validate_config(self, diags, config):
        pass

    def configure_provider(self, diags, config):
        pass

    def get_data_sources(self):
        return [Partition]

    def get_resources(self):
        return [Stack, Object, Alarm, HealthCheck, Bucket, PublicAccessBlock]


run_provider(Aws())
