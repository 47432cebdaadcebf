"""Reads a coordinator's status with nothing but its address: the messages and
services come from server reflection, the health service from its own package."""

import json
import sys

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

SERVICE = "prospect.v1.StatusService"
TIMEOUT_SECONDS = 10


def main():
    with grpc.insecure_channel(sys.argv[1]) as channel:
        reflection = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(reflection)
        service = pool.FindServiceByName(SERVICE)

        def call(name, **fields):
            method = service.methods_by_name[name]
            request = GetMessageClass(method.input_type)
            response = GetMessageClass(method.output_type)
            kind = channel.unary_stream if method.server_streaming else channel.unary_unary
            function = kind(
                f"/{SERVICE}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            return function(request(**fields), timeout=TIMEOUT_SECONDS)

        def as_json(message):
            return json_format.MessageToDict(message, preserving_proto_field_name=True)

        health = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=SERVICE), timeout=TIMEOUT_SECONDS
        )
        first = next(iter(call("WatchStatus")))
        status = as_json(call("GetStatus"))["status"]
        assert as_json(first)["status"]["run_id"] == status["run_id"]
        answer = {
            "services": sorted(reflection.get_services()),
            "health": health_pb2.HealthCheckResponse.ServingStatus.Name(health.status),
            "status": status,
            "metrics": as_json(call("ListMetrics", first_step=1)).get("points", []),
            "workers": as_json(call("ListWorkers")).get("workers", []),
            "events": as_json(call("ListEvents", first_sequence=1)).get("events", []),
        }
    print(json.dumps(answer))


main()
