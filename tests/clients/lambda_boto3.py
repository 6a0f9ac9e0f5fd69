#!/usr/bin/env python3
"""AWS Lambda's API with the unmodified boto3.

    BASE_URL=http://127.0.0.1:8080 COMPONENT=hello.wasm python lambda_boto3.py
    AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...      # as `dormouse serve --aws-access-key-id … --aws-secret-access-key …`

COMPONENT takes {"name": text}, as examples/hello does.
"""

import base64
import io
import json
import os
import time
import uuid
import zipfile

import boto3
import botocore
from botocore.config import Config
from _check import BASE, check, component, done

KEY = os.environ.get("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
SECRET = os.environ.get("AWS_SECRET_ACCESS_KEY", "secret")
IS_SIGNED = "AWS_SECRET_ACCESS_KEY" in os.environ


def connect(secret=SECRET):
    return boto3.client(
        "lambda", endpoint_url=BASE, region_name="us-east-1", aws_access_key_id=KEY, aws_secret_access_key=secret,
        config=Config(retries={"max_attempts": 1}),
    )


client = connect()
WASM = component("hello")
NAME = f"l-{uuid.uuid4().hex[:8]}"
EVENT = json.dumps({"name": "Ada"}).encode()


def refused(code, call):
    try:
        call()
    except client.exceptions.ClientError as error:
        assert error.response["Error"]["Code"] == code, error
    else:
        raise AssertionError(f"no {code}")


def zipped(data):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hello.wasm", data)
    return file.getvalue()


@check("create, from a zip file")
def _():
    made = client.create_function(
        FunctionName=NAME, Role="arn:aws:iam::000000000000:role/r", Handler="hello", Runtime="provided.al2023",
        Code={"ZipFile": zipped(WASM)}, Timeout=10, MemorySize=128, Environment={"Variables": {"A": "b"}},
        Tags={"team": "x"}, Description="greets",
    )
    assert made["FunctionName"] == NAME and made["CodeSize"] == len(WASM), made
    client.get_waiter("function_active_v2").wait(FunctionName=NAME)
    refused("ResourceConflictException", lambda: client.create_function(
        FunctionName=NAME, Role="arn:aws:iam::000000000000:role/r", Code={"ZipFile": WASM}, Runtime="provided.al2023", Handler="h"))


@check("invoke")
def _():
    answer = client.invoke(FunctionName=NAME, Payload=EVENT, LogType="Tail")
    payload = json.loads(answer["Payload"].read())
    assert answer["StatusCode"] == 200 and "FunctionError" not in answer, answer
    assert "Ada" in json.dumps(payload), payload
    assert b"REPORT" in base64.b64decode(answer["LogResult"])
    assert answer["ExecutedVersion"] == "$LATEST"
    assert client.invoke(FunctionName=NAME, Payload=EVENT, InvocationType="DryRun")["StatusCode"] == 204
    assert client.invoke(FunctionName=NAME, Payload=EVENT, InvocationType="Event")["StatusCode"] == 202
    wrong = client.invoke(FunctionName=NAME, Payload=b'{"name": 5}')
    assert wrong["FunctionError"] == "Unhandled", wrong
    refused("ResourceNotFoundException", lambda: client.invoke(FunctionName="absent", Payload=b"{}"))
    refused("InvalidRequestContentException", lambda: client.invoke(FunctionName=NAME, Payload=b"{"))


@check("invoke with a response stream")
def _():
    events = list(client.invoke_with_response_stream(FunctionName=NAME, Payload=EVENT, LogType="Tail")["EventStream"])
    text = b"".join(event["PayloadChunk"]["Payload"] for event in events if "PayloadChunk" in event)
    assert b"Ada" in text, events
    assert "LogResult" in events[-1]["InvokeComplete"] and "ErrorCode" not in events[-1]["InvokeComplete"], events


@check("get, list, configuration")
def _():
    found = client.get_function(FunctionName=NAME)
    assert found["Tags"] == {"team": "x"} and found["Configuration"]["Timeout"] == 10, found
    assert found["Configuration"]["Environment"]["Variables"] == {"A": "b"}
    arn = found["Configuration"]["FunctionArn"]
    assert client.get_function_configuration(FunctionName=arn)["FunctionName"] == NAME
    names = [function["FunctionName"] for page in client.get_paginator("list_functions").paginate() for function in page["Functions"]]
    assert NAME in names
    changed = client.update_function_configuration(FunctionName=NAME, Timeout=20)
    assert changed["Timeout"] == 20 and changed["MemorySize"] == 128, changed
    client.get_waiter("function_updated_v2").wait(FunctionName=NAME)


@check("code, versions, aliases")
def _():
    first = client.publish_version(FunctionName=NAME, Description="one")
    assert first["Version"] == "1", first
    client.update_function_configuration(FunctionName=NAME, Environment={"Variables": {"A": "c"}})
    second = client.update_function_code(FunctionName=NAME, ZipFile=WASM, Publish=True)
    assert second["Version"] == "2", second
    client.create_alias(FunctionName=NAME, Name="PROD", FunctionVersion="1")
    assert client.invoke(FunctionName=f"{NAME}:PROD", Payload=EVENT)["ExecutedVersion"] == "1"
    client.update_alias(FunctionName=NAME, Name="PROD", FunctionVersion="2")
    assert client.invoke(FunctionName=NAME, Qualifier="PROD", Payload=EVENT)["ExecutedVersion"] == "2"
    assert client.get_alias(FunctionName=NAME, Name="PROD")["FunctionVersion"] == "2"
    assert [alias["Name"] for alias in client.list_aliases(FunctionName=NAME)["Aliases"]] == ["PROD"]
    versions = [version["Version"] for version in client.list_versions_by_function(FunctionName=NAME)["Versions"]]
    assert versions == ["$LATEST", "1", "2"], versions


@check("concurrency")
def _():
    client.put_function_concurrency(FunctionName=NAME, ReservedConcurrentExecutions=3)
    assert client.get_function_concurrency(FunctionName=NAME)["ReservedConcurrentExecutions"] == 3
    client.put_function_concurrency(FunctionName=NAME, ReservedConcurrentExecutions=0)
    refused("TooManyRequestsException", lambda: client.invoke(FunctionName=NAME, Payload=EVENT))
    client.delete_function_concurrency(FunctionName=NAME)
    client.put_provisioned_concurrency_config(FunctionName=NAME, Qualifier="PROD", ProvisionedConcurrentExecutions=1)
    for _ in range(100):
        status = client.get_provisioned_concurrency_config(FunctionName=NAME, Qualifier="PROD")["Status"]
        if status == "READY":
            break
        time.sleep(0.1)
    assert status == "READY", status
    assert len(client.list_provisioned_concurrency_configs(FunctionName=NAME)["ProvisionedConcurrencyConfigs"]) == 1
    client.delete_provisioned_concurrency_config(FunctionName=NAME, Qualifier="PROD")


@check("destinations")
def _():
    arn = client.get_function(FunctionName=NAME)["Configuration"]["FunctionArn"]
    put = client.put_function_event_invoke_config(
        FunctionName=NAME, MaximumRetryAttempts=1, MaximumEventAgeInSeconds=60,
        DestinationConfig={"OnFailure": {"Destination": arn}},
    )
    assert put["MaximumRetryAttempts"] == 1, put
    updated = client.update_function_event_invoke_config(FunctionName=NAME, MaximumRetryAttempts=0)
    assert updated["DestinationConfig"]["OnFailure"]["Destination"] == arn, updated
    assert len(client.list_function_event_invoke_configs(FunctionName=NAME)["FunctionEventInvokeConfigs"]) == 1
    client.delete_function_event_invoke_config(FunctionName=NAME)
    refused("ResourceNotFoundException", lambda: client.get_function_event_invoke_config(FunctionName=NAME))


@check("url and tags")
def _():
    url = client.create_function_url_config(FunctionName=NAME, AuthType="AWS_IAM", Cors={"AllowOrigins": ["*"]})
    assert url["FunctionUrl"].endswith(f"/fn/{NAME}"), url
    assert client.update_function_url_config(FunctionName=NAME, InvokeMode="RESPONSE_STREAM")["InvokeMode"] == "RESPONSE_STREAM"
    assert client.get_function_url_config(FunctionName=NAME)["AuthType"] == "AWS_IAM"
    client.delete_function_url_config(FunctionName=NAME)
    arn = client.get_function(FunctionName=NAME)["Configuration"]["FunctionArn"]
    client.tag_resource(Resource=arn, Tags={"a": "1", "b": "2"})
    client.untag_resource(Resource=arn, TagKeys=["a", "team"])
    assert client.list_tags(Resource=arn)["Tags"] == {"b": "2"}
    assert client.get_account_settings()["AccountUsage"]["FunctionCount"] > 0


if IS_SIGNED:

    @check("a wrong secret")
    def _():
        refused("InvalidSignatureException", lambda: connect("wrong").list_functions())


@check("delete")
def _():
    client.delete_function(FunctionName=NAME)
    refused("ResourceNotFoundException", lambda: client.get_function(FunctionName=NAME))


print(f"boto3 {boto3.__version__}, botocore {botocore.__version__}, signed: {IS_SIGNED}")
done()
