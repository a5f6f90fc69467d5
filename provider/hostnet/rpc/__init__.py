"""The only room that knows gRPC, protobuf and Pulumi."""
